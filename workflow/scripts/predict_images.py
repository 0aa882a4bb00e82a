"""Judge new images with the final model."""

from pathlib import Path

import pandas as pd
from equimood import devices, figures, files, logs, models, prediction
from equimood.settings import Explain, Ingest, Predict, View

logs.start(snakemake.log[0])
devices.use_threads(snakemake.threads)
params, drawn = snakemake.params, Path(snakemake.output.panels)
asked, explain = Predict(**params.predict), Explain(**params.explain)
model = models.load_with(
    Path(snakemake.input.card).parent, snakemake.input.backbones, devices.choose()
)
rows, folder = prediction.asked(asked.images)
views = {name: View(**params.views[name]) for name in model.views}
framed, quarantine = prediction.frame(rows, folder, views, Ingest(**params.ingest))
drawn.mkdir()
answers = [pd.DataFrame(columns=["image", "predicted", *(f"p_{c}" for c in model.classes)])]
for batch, examples in prediction.predict(
    model, framed, folder, explain.batch_size, explain if asked.explain else None,
    logs.progress("images judged"),
):  # fmt: skip
    answers.append(batch)
    for example in examples:
        panel = example.panel(model.classes, explain.tolerance, params.colormap)
        figures.save(panel, drawn / files.as_file_name(example.answer["image"]), ["png"])
table = pd.concat(answers[1:] or answers)
files.write_text(snakemake.output.predictions, table.to_csv(index=False))
files.write_text(snakemake.output.quarantine, quarantine.to_csv(index=False))
logs.log.info("%d images judged, %d refused (quarantine.csv says why)", len(table),
              quarantine["line"].nunique())  # fmt: skip

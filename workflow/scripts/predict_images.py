"""Judge new images with the final model."""

from pathlib import Path

import pandas as pd
from equimood import devices, figures, files, logs, models, prediction, references
from equimood.settings import NOT_SURE, Explain, Ingest, Predict, View

logs.start(snakemake.log[0])
devices.use_threads(snakemake.threads)
params, given, drawn = snakemake.params, snakemake.input, Path(snakemake.output.panels)
asked, explain = Predict(**params.predict), Explain(**params.explain)
model = models.load_with(Path(given.card).parent, given.backbones, devices.choose())
views = {name: View(**params.views[name]) for name in model.views}
rows, regions, folder = prediction.asked(asked, views)
framed, quarantine = prediction.frame(rows, regions, folder, views, Ingest(**params.ingest))
known = None
if asked.explain:
    known = references.of_final(given.catalogue, explain, params.images_dir, params.seed)
drawn.mkdir()
names = ["line", "image", "predicted", "answer", "confidence", "unlike_training"]
answers = [pd.DataFrame(columns=[*names, *(f"p_{name}" for name in model.classes)])]
for batch, examples in prediction.predict(
    model, framed, folder, explain.batch_size, explain if asked.explain else None, known,
    logs.progress("images judged"),
):  # fmt: skip
    answers.append(batch)
    for example in examples:
        panel = example.panel(model.classes, explain.tolerance, params.colormap, explain.compared)
        name = f"{example.answer['line']}-{Path(example.answer['image']).name}"
        figures.save(panel, drawn / files.as_file_name(name), ["png"])
table = pd.concat(answers[1:] or answers)
files.write_text(snakemake.output.predictions, table.to_csv(index=False))
files.write_text(snakemake.output.quarantine, quarantine.to_csv(index=False))
logs.log.info("%d images judged, %d refused (quarantine.csv says why)", len(table),
              quarantine["line"].nunique())  # fmt: skip
n_answered, n_unlike = (table["answer"] != NOT_SURE).sum(), table["unlike_training"].sum()
logs.log.info("%d answered, %d unlike the training photographs", n_answered, n_unlike)
logs.log.info("%s", files.read_yaml(given.card)["abstention"]["in_words"])

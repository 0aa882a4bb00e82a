"""Write the methods section, the model card, the data sheet and the report's first page."""

import pandas as pd
from equimood import cards, files, logs, methods, pages, settings, tables

logs.start(snakemake.log[0])
source, output = snakemake.input, snakemake.output
study = settings.load(snakemake.params.settings)
images, quarantine = tables.read(source.images), pd.read_csv(source.quarantine)
found = ("metrics", "comparison", "calibration", "audit", "agreement", "ceiling")
card = files.read_yaml(source.card)
stated = methods.facts(
    study,
    images,
    tables.read(source.splits),
    quarantine,
    [files.read_yaml(path) for path in source.best],
    **{name: files.read_json(source[name]) for name in found},
    checks=files.read_json(source.checks),
    card=card,
    trusted=files.read_json(source.tests) if source.tests else None,
    explored=[files.read_yaml(path) for path in source.transfer],
)
n_near_duplicates = len(tables.read(source.near_duplicates))
documents = {
    "methods": ("Methods", methods.methods_paragraph(stated)),
    "model_card": ("Model card", cards.model_card(stated, card)),
    "data_sheet": (
        "Data sheet",
        cards.data_sheet(stated, images, quarantine, n_near_duplicates),
    ),
}
for name, (title, text) in documents.items():
    files.write_text(output[f"{name}_text"], text)
    files.write_text(output[name], pages.from_markdown(text, f"{title}: {study.study}"))
files.write_text(output.front, cards.front_page(stated))
files.write_yaml(output.settings, snakemake.params.settings)

"""Write the model card, the data sheet and the report's first page."""

import pandas as pd
from equimood import cards, files, logs, methods, pages, settings, tables

logs.start(snakemake.log[0])
source, output = snakemake.input, snakemake.output
study = settings.load(snakemake.params.settings)
images, quarantine = tables.read(source.images), pd.read_csv(source.quarantine)
stated = methods.facts(
    study,
    images,
    tables.read(source.splits),
    [files.read_yaml(path) for path in source.best],
    files.read_json(source.metrics),
    quarantine,
    files.read_json(source.checks)["gaps"],
)
n_near_duplicates = len(tables.read(source.near_duplicates))
model = cards.model_card(stated, files.read_yaml(source.card), study.study)
data = cards.data_sheet(stated, images, quarantine, n_near_duplicates, study.study)
files.write_text(output.model_text, model)
files.write_text(output.model_card, pages.from_markdown(model, f"Model card: {study.study}"))
files.write_text(output.data_text, data)
files.write_text(output.data_sheet, pages.from_markdown(data, f"Data sheet: {study.study}"))
files.write_text(output.front, cards.front_page(stated))

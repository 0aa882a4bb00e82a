"""Sum what the jobs of each rule used of what they asked for."""

from equimood import efficiency, files, logs

logs.start(snakemake.log[0])
table = efficiency.summarise({rule: snakemake.input[rule] for rule in snakemake.params.rules})
with files.written_whole(snakemake.output.table) as aside:
    table.to_csv(aside, index=False)
files.write_text(snakemake.output.html, efficiency.as_html(table))

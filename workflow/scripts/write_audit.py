"""Judge what the audit found, write its page, and refuse what must not be."""

from pathlib import Path

from equimood import audit, files, logs
from equimood.settings import Audit

logs.start(snakemake.log[0])
given, params = snakemake.input, snakemake.params
found = files.read_json(given.splits)["checks"] + files.read_json(given.measured)
judged = audit.judge(audit.as_findings(found), Audit(**params.audit))
audit.refuse(judged, Path(params.refused))
audit.warn(judged)
files.write_json(snakemake.output.audit, audit.as_json(judged))
files.write_text(snakemake.output.html, audit.as_html(judged))

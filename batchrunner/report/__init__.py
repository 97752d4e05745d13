"""Reports of a batch: report.json, report.html, results.csv and others."""

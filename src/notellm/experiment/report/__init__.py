"""The report of an experiment: tables, plots and words, as HTML, Markdown and Parquet."""

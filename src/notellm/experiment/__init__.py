"""The papers' experiments on any data: methods, ablations, breakdowns, statistics, one report."""

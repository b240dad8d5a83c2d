"""Studies: jobs that several processes share, brought to one file of results and a report."""

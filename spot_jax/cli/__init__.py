"""The console command: one short file a verb, and the only place that knows gin."""

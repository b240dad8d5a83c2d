"""The report's figures, as Vega-Lite charts made by Altair."""

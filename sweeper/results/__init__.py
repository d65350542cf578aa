"""The results of a study: ranking, selected checkpoint, tables, charts."""

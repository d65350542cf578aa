"""The report of a study: one page that holds everything, to open in any browser."""

"""The report: views of results as drawings, sections and sentences."""

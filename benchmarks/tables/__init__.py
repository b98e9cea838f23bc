"""What is published of the results: tables, sentences and pictures."""

"""What is documented is true: commands run, links lead somewhere, options and settings exist."""

"""Why is this phone stuck: facts, rules, and one answer."""

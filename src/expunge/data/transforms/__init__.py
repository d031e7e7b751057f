"""Four transforms of records with metadata (filter, mix and match, adversarial, refusal), for any set of rows."""

"""The local workspace: a read-only web page over studies, models and pages (`expunge ui`)."""

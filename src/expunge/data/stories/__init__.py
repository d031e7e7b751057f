"""Stories with instructions (TinyStories): records, their transforms, and shards of tokens to train on."""

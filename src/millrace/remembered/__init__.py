"""What a guest remembers of its streams, sinks and sources, as pure values."""

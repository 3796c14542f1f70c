"""The verbs beside launch, pin and reproduce: a typed document and its text each."""

"""AugMix on Ray, one stage per file: source, order, decode, augment, train, search, evaluate, report."""

"""Searching cells: sampling, graph embedding, predictor, the NASGEM loop and other strategies."""

"""The parts of the sample world: its truth, its words, its notes and its clicks."""

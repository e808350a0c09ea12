"""The propositions' two sides on a network, and the slips of the paper's appendix."""

"""The engine: everything hard, once, for every transport: fetch → route → lane → execute → decide → settle."""

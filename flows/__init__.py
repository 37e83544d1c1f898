"""The top floor: when, and in what order. One file a flow; each reads like a table of contents."""

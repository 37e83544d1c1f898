"""The reading room: what analysts read. Frames come from `blocks.catalog`; nothing here changes anything."""

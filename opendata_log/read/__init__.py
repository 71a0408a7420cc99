"""The reading half: scans in both directions, several keys at once, follows, inspection."""

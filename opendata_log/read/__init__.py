"""The read side: scans in both directions, several keys at once, followers, inspection."""

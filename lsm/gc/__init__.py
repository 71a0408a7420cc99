"""What can be deleted (`policy`, pure) and its deletion (`collector`)."""

"""How the backbone `mini` was made: prepare, train, store; see README.md."""

"""Programs that what the repository ships was made with; no part of the package."""

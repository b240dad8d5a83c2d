"""What one task's prompt gives to another."""

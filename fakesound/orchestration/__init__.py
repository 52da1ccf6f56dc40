"""What ties the stages together: run configuration, tracking, launching, sweeping, registering."""

"""What each way of making batches, mining and losing is worth on unseen classes, at equal steps and initial weights."""

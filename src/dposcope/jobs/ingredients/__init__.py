"""What every job starts from: data, scorers, a direction, neuron means, a judge."""

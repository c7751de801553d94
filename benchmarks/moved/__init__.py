"""What the best edit moves, beside what DPO moves and beside the paper's rule."""

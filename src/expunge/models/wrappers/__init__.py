"""One wrapper per file: unlearning at inference."""

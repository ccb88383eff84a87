"""Active learning for Galaxy Zoo."""

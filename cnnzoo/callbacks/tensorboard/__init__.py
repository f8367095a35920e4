"""What TensorBoard shows besides curves of scalars."""

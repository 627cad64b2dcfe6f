"""Other queue workers doing the same jobs. They run in `.venv-bench` and import nothing of this project's service."""

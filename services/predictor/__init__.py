"""Model server for CPUs of the embedded and CPU installs, with the API of KServe and OpenAI."""

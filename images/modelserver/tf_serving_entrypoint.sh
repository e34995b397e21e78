#!/bin/bash
# Starts the server with the ports and the model of the environment, as the entry point of tensorflow/serving does. Of a flag
# that comes twice the server takes the last: the container's arguments win.
# The shell stays the first process, as there. It has no handler for SIGTERM, and does not pass it on.
tensorflow_model_server --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"

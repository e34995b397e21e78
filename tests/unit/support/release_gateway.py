"""
A gateway with one port for REST and gRPC, and one model behind it that answers as it is told.
"""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

from tfcanary.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow_serving.apis import predict_pb2


class Gateway:
    """
    A model behind one port: what each API answers may be changed, and what it was asked is kept.
    """

    def __init__(self, signatures):
        self.signatures = signatures
        self.status = 200
        # What REST answers to a request for metadata, if it is not a model's, and to one for a prediction.
        self.described = None
        self.predicted = json.dumps({"outputs": {"labels": [["grey"]]}}).encode()
        self.outputs = ["labels", "probabilities"]
        self.code = None
        # What the routes and the server put on every answer.
        self.headers = {"x-route-revision": "0123456789", "x-model-track": "canary"}
        self.version = {"REST": "2", "gRPC": 2}
        # Whether the model takes a request; a test that refuses some of them replaces it.
        self.takes = lambda _: True
        self.stale = 0
        self.hosts = []
        self.names = []
        self.asked = []
        self.context = None
        self.rest = ThreadingHTTPServer(("127.0.0.1", 0), rest_of(self))
        self.rest.daemon_threads = True
        self.grpc = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(
            self.predict, predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString
        )
        service = "tensorflow.serving.PredictionService"
        self.grpc.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"Predict": handler})]
        )
        self.ports = {"rest": self.rest.server_port, "grpc": self.grpc.add_insecure_port("127.0.0.1:0")}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.grpc.start()
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()
        threading.Thread(target=self.rest.serve_forever, args=[0.05], daemon=True).start()

    def predict(self, request, context):
        """
        Answer one gRPC call.
        """
        self.hosts.append(context._rpc_event.call_details.host.decode())
        self.asked.append(request)
        if self.code is not None:
            context.abort(self.code, "no healthy upstream")
        context.send_initial_metadata(tuple(self.headers.items()))
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = self.version["gRPC"]
        for name in self.outputs:
            response.outputs[name].float_val.append(0.5)
        return response

    def accept(self):
        """
        Lead every connection to the API that it speaks.
        """
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.lead, args=[connection], daemon=True).start()

    def lead(self, connection):
        """
        Lead one connection: with TLS its protocol is agreed upon, without it HTTP/2 starts with PRI.
        """
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
                speaks_grpc = connection.selected_alpn_protocol() == "h2"
            else:
                speaks_grpc = connection.recv(3, socket.MSG_PEEK) == b"PRI"
            api = socket.create_connection(("127.0.0.1", self.ports["grpc" if speaks_grpc else "rest"]))
        except OSError:
            connection.close()
            return
        back = threading.Thread(target=pump, args=[api, connection], daemon=True)
        with connection, api:
            back.start()
            pump(connection, api)
            back.join()

    def close(self):
        """
        Stop answering.
        """
        # Closing alone would leave accept() waiting, and it would take one more connection.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()
        self.rest.shutdown()
        self.rest.server_close()
        self.grpc.stop(None)


def pump(source, target):
    """
    Copy all that arrives, until one side ends.
    """
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def rest_of(gateway):
    """
    The handler of REST requests.
    """

    class Rest(BaseHTTPRequestHandler):
        def do_GET(self):
            spec = {"name": "resnet", "signature_name": "", "version": gateway.version["REST"]}
            described = {
                "model_spec": spec,
                "metadata": {"signature_def": {"signature_def": gateway.signatures}},
            }
            self.answer(gateway.status, gateway.described or json.dumps(described).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            gateway.asked.append(body)
            if gateway.takes(body):
                self.answer(200, gateway.predicted)
            else:
                self.answer(400, b'{"error": "not a picture"}')

        def answer(self, status, body):
            gateway.hosts.append(self.headers["Host"])
            self.send_response(status)
            for name, value in gateway.headers.items():
                stale, gateway.stale = gateway.stale, max(0, gateway.stale - 1)
                self.send_header(name, "stale" if stale else value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Rest

"""
Which TensorFlow ops a model that is served may hold, and how a SavedModel is held against that.

A SavedModel is a program: its graph may read and write files, print, open sockets or call into Python, with the
rights of the server. The list names what is allowed; everything else is refused, so that an op that TensorFlow
adds tomorrow, or one from a library of somebody's own, is refused until someone has read what it does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# Ops that compute their outputs from their inputs and touch nothing but memory.
ALLOWED = frozenset(
    """
    Assert Bitcast Cast CheckNumerics Const EnsureShape Fill GuaranteeConst Identity IdentityN InvertPermutation
    NoOp OnesLike Placeholder PlaceholderV2 PlaceholderWithDefault PreventGradient Rank Shape ShapeN Size Snapshot
    StopGradient Timestamp ZerosLike

    BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 DepthToSpace Diag DiagPart DynamicPartition DynamicStitch
    ExpandDims Gather GatherNd GatherV2 LinSpace ListDiff MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV3
    MatrixDiagV3 MatrixSetDiagV3 MirrorPad OneHot Pack Pad PadV2 ParallelDynamicStitch Range Reshape Reverse
    ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2 Slice SpaceToBatch SpaceToBatchND SpaceToDepth
    BatchToSpace BatchToSpaceND Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin
    TensorScatterSub TensorScatterUpdate Tile Transpose Unique UniqueV2 UniqueWithCounts Unpack UnravelIndex Where

    Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul
    BatchMatMulV2 BatchMatMulV3 Bincount BitwiseAnd BitwiseOr BitwiseXor Bucketize Ceil ClipByValue Complex
    ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum DenseBincount Digamma Div DivNoNan Einsum Equal Erf Erfc Erfinv
    EuclideanNorm Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Imag InTopK InTopKV2 Inv Invert IsFinite
    IsInf IsNan LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr LowerBound MatMul Max
    Maximum Mean Min Minimum Mod Mul MulNoNan Ndtri Neg NotEqual NthElement Pow Prod Real RealDiv Reciprocal
    RightShift Rint Round Rsqrt SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Sigmoid Sign Sin Sinh Sqrt
    Square SquaredDifference Sub Sum Tan Tanh TopK TopKV2 TruncateDiv TruncateMod UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound Xdivy Xlog1py Xlogy FFT FFT2D IFFT IFFT2D
    RFFT RFFT2D IRFFT IRFFT2D

    AvgPool AvgPool3D BiasAdd BiasAddV1 Conv Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2
    DepthwiseConv2dNative Dilation2D Elu ExtractImagePatches FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
    FakeQuantWithMinMaxVarsPerChannel FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 L2Loss LRN LeakyRelu LogSoftmax
    MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Relu Relu6 Selu Softmax Softplus Softsign Dequantize
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2

    AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize DecodeAndCropJpeg DecodeBmp
    DecodeGif DecodeImage DecodeJpeg DecodePng EncodeJpeg EncodePng ExtractJpegShape HSVToRGB
    ImageProjectiveTransformV3 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 RGBToHSV ResizeArea
    ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate

    AsString DecodeBase64 DecodeCSV DecodeJSONExample DecodePaddedRaw DecodeRaw EncodeBase64 ParseExample
    ParseExampleV2 ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample ParseTensor ReduceJoin
    RegexFullMatch RegexReplace SerializeTensor StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin
    StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucketFast
    StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode
    UnicodeTranscode UnsortedSegmentJoin

    RaggedBincount RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
    RaggedTensorToVariant SparseAdd SparseConcat SparseCross SparseFillEmptyRows SparseReduceMax SparseReduceSum
    SparseReorder SparseReshape SparseSegmentMean SparseSegmentSqrtN SparseSegmentSum SparseSlice SparseSoftmax
    SparseTensorDenseAdd SparseTensorDenseMatMul SparseToDense

    RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformIntV2
    StatelessRandomUniformV2 TruncatedNormal

    Case Enter Exit If LoopCond Merge NextIteration PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf
    StatelessWhile Switch While

    EmptyTensorList TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
    TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListScatterV2 TensorListSetItem TensorListStack

    Assign AssignAddVariableOp AssignSubVariableOp AssignVariableOp DestroyResourceOp DisableCopyOnRead
    IsVariableInitialized ReadVariableOp ResourceGather ResourceGatherNd VarHandleOp VarIsInitializedOp Variable
    VariableShape VariableV2

    HashTableV2 InitializeTableV2 LookupTableExportV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2
    MutableHashTableV2
    """.split()  # noqa: SIM905 - a list literal would be a line for each
)


# What every SavedModel holds to save and restore its own variables, and nothing else may use.
SAVER = frozenset({"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"})
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_RUN_AT_LOAD = ("saved_model_main_op", "legacy_init_op")


def refused(saved: Any) -> list[str]:
    """
    Say which ops of a SavedModel's message may not be served and why, one line each; none if all may.
    """
    return sorted({line for meta_graph in saved.meta_graphs for line in _Graph.of(meta_graph).refused()})


def used(saved: Any) -> list[str]:
    """
    Name every op that the graphs and their functions use.
    """
    return sorted(
        {
            node.op
            for meta_graph in saved.meta_graphs
            for nodes in (
                meta_graph.graph_def.node,
                *(function.node_def for function in meta_graph.graph_def.library.function),
            )
            for node in nodes
        }
    )


@dataclass(frozen=True, slots=True)
class _Graph:
    """
    One graph of a SavedModel, by name.
    """

    meta_graph: Any
    nodes: Mapping[str, Any]
    functions: Mapping[str, Any]

    @classmethod
    def of(cls, meta_graph: Any) -> "_Graph":
        graph = meta_graph.graph_def
        functions = {function.signature.name: function for function in graph.library.function}
        return cls(meta_graph, {node.name: node for node in graph.node}, functions)

    def refused(self) -> Iterator[str]:
        """
        Give a line for each op that is neither allowed nor the saver's own.
        """
        saver = self.meta_graph.saver_def
        restore = self.reached([saver.restore_op_name])
        save = self.reached([saver.save_tensor_name])
        served = self.reached(self.entries(), self.stand_ins())
        everything = [
            ("", self.meta_graph.graph_def.node),
            *((name, function.node_def) for name, function in self.functions.items()),
        ]
        for function, nodes in everything:
            for node in nodes:
                place = (function, node.name) if not function else (function, "")
                if node.op in ALLOWED or node.op in self.functions:
                    continue
                if node.op not in SAVER:
                    yield f"{node.op} is not on the list of allowed ops"
                elif place in served.places:
                    yield f"{node.op} is allowed to the saver only, and a signature or an initializer uses it"
                elif place in restore.places:
                    if node.op != "RestoreV2":
                        yield f"{node.op} is run whenever the model is loaded; only RestoreV2 may be"
                    elif not self.from_argument(function, node):
                        yield "RestoreV2 reads another file than the model's own variables"
                elif place not in save.places:
                    yield f"{node.op} is allowed to the saver only, and something else holds it"

    def entries(self) -> Iterator[str]:
        """
        Name what a server runs besides restoring: signatures and initializers.
        """
        for signature in self.meta_graph.signature_def.values():
            for tensor in (*signature.outputs.values(), *signature.inputs.values()):
                yield tensor.name
                yield from (part.name for part in tensor.composite_tensor.components)
                coo = tensor.coo_sparse
                yield from (
                    coo.values_tensor_name,
                    coo.indices_tensor_name,
                    coo.dense_shape_tensor_name,
                )
        for key in _RUN_AT_LOAD:
            if key in self.meta_graph.collection_def:
                yield from self.meta_graph.collection_def[key].node_list.value

    def stand_ins(self) -> Iterator[str]:
        """
        Name the functions that TensorFlow may run in the place of others: whatever calls those, calls these.
        """
        return (name for name, function in self.functions.items() if "api_implements" in function.attr)

    def reached(self, tensors: Iterable[str], called: Iterable[str] = ()) -> "_Reached":
        """
        Follow inputs and calls from some tensors, and from functions that are called anyway.
        """
        result = _Reached()
        nodes = [name for name in map(_node, tensors) if name]
        functions = list(called)
        while nodes or functions:
            if nodes:
                node = self.nodes.get(nodes.pop())
                if node is None or ("", node.name) in result.places:
                    continue
                result.places.add(("", node.name))
                nodes.extend(map(_node, node.input))
                functions.extend(self.called(node))
                continue
            function = functions.pop()
            if (function, "") in result.places:
                continue
            result.places.add((function, ""))
            for node in self.functions[function].node_def:
                functions.extend(self.called(node))
        return result

    def called(self, node: Any) -> Iterator[str]:
        """
        Name the functions that a node calls, by its op or by an attribute.
        """
        names = [node.op]
        for value in node.attr.values():
            names.append(value.func.name)
            names.extend(function.name for function in value.list.func)
        return (name for name in names if name in self.functions)

    def from_argument(self, function: str, node: Any) -> bool:
        """
        Whether a restore reads the file that the loader names: the variables' own.

        In a function that is one of its arguments, in a TF1 graph the saver's placeholder.
        """
        nodes = {inner.name: inner for inner in self.functions[function].node_def} if function else self.nodes
        source = _input(node, 0)
        for _ in nodes:  # there are no more to pass, unless they stand in a circle
            if _node(source) not in nodes or nodes[_node(source)].op != "Identity":
                break
            source = _input(nodes[_node(source)], 0)
        if not function:
            return _output(source) == _output(self.meta_graph.saver_def.filename_tensor_name)
        arguments = self.functions[function].signature.input_arg
        # One that stands for several would move those behind it.
        single = not any(argument.number_attr or argument.type_list_attr for argument in arguments)
        names = [argument.name for argument in arguments]
        return single and source in names and self.given(function, names.index(source))

    def given(self, function: str, position: int) -> bool:
        """
        Whether every call of a function gives it the saver's file name as its argument at `position`.

        Only plain calls do: a branch has its condition before the arguments, a loop gives others the second time.
        """
        wanted = _output(self.meta_graph.saver_def.filename_tensor_name)
        inner = any(
            function in self.called(node) for other in self.functions.values() for node in other.node_def
        )
        calls = [node for node in self.nodes.values() if function in self.called(node)]
        return not inner and all(
            (node.op == function or (node.op in _CALLS and node.attr["f"].func.name == function))
            and _output(_input(node, position)) == wanted
            for node in calls
        )


@dataclass(slots=True)
class _Reached:
    """
    What was reached: nodes of the graph as ("", node), functions as (function, "").
    """

    places: set[tuple[str, str]] = field(default_factory=set)


def _node(tensor: str) -> str:
    """
    The node of a tensor's name: ``^node``, ``node:0`` and ``node:output:0`` are its other forms.
    """
    return tensor.removeprefix("^").partition(":")[0]


def _output(tensor: str) -> str:
    """
    A tensor of the graph in its full form: ``node`` is short for ``node:0``.
    """
    return tensor if ":" in tensor else f"{tensor}:0"


def _input(node: Any, position: int) -> str:
    """
    The name of a node's input; of one that is missing, a name that no tensor has.
    """
    return node.input[position] if position < len(node.input) else "^"

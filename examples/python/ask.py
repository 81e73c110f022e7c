"""Streams a document to longdoc, keeps it and asks it questions.

    python3 ask.py TARGET DOCUMENT MODEL QUESTION...

TARGET is HOST:PORT, or dns:///HOST:PORT for all servers behind a name.
"""
import array
import math
import sys

from longdoc_client import Client, Failed, KeptDocuments
from longdoc.v1 import embedding_service_pb2 as embedding


def floats(vector):
    """Components of a FLOAT32 vector, the default encoding."""
    numbers = array.array("f", vector.data)  # little-endian on the wire
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b))  # of unit vectors, the default


def embed(target, path, model, questions):
    header = embedding.DocumentHeader(model=model, passages=[embedding.PassageSpec(tokens=256)])
    with Client(target) as client:
        answer = client.embed_document(path, header)
        whole = floats(answer.result.vector)
        print(f"document {answer.result.stats.encoded_tokens} tokens, {len(whole)} dimensions, "
              f"{len(answer.passages)} passages")
        items = client.embed_texts(questions, model)
        for question, item in zip(questions, items.items):
            if item.status.code != 0:  # one bad text does not spoil the others
                print(f"text failed {item.status.reason}: {item.status.message}")
                continue
            near = max(answer.passages, key=lambda p: cosine(floats(item.vector), floats(p.vector)))
            print(f"cosine {cosine(floats(item.vector), whole):.5f} nearest bytes "
                  f"{near.bytes.begin}-{near.bytes.end}: {question}")


def ask(target, path, model, questions):
    header = embedding.DocumentHeader(model=model)
    with KeptDocuments([target], header) as kept:
        answer = kept.score(path, path, questions)
    for question, score in zip(questions, answer.scores):
        if score.status.code != 0:
            print(f"score failed {score.status.reason}: {score.status.message}")
            continue
        print(f"score {score.scores[0].score:.5f}: {question}")


def main(target, path, model, *questions):
    try:
        embed(target, path, model, questions)
        ask(target, path, model, questions)
    except Failed as failure:
        sys.exit(f"ask: {failure}")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

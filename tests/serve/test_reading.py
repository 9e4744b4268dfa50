"""A POST that only reads says so itself; every other POST needs a write key."""

from fastapi import FastAPI

from notellm.serve.routes.reading import only_reads, reading_posts


def test_a_marked_post_only_reads_and_others_write():
    api = FastAPI()

    @api.post("/v1/question")
    @only_reads
    async def question():
        pass

    @api.post("/v1/order")
    async def order():
        pass

    @api.get("/v1/list")
    async def get_list():
        pass

    reads = reading_posts(api.routes)
    assert reads("/v1/question")
    for path in ("/v1/order", "/v1/list", "/v1/question/x", "/v1/questions", "/nothing", ""):
        assert not reads(path)


def test_the_route_that_would_answer_decides():
    api = FastAPI()

    @api.post("/v1/notes/remove")
    async def remove():
        pass

    @api.post("/v1/notes/{note_id:path}")
    @only_reads
    async def question(note_id: str):
        pass

    reads = reading_posts(api.routes)
    assert not reads("/v1/notes/remove")
    assert reads("/v1/notes/remove/x")
    assert reads("/v1/notes/n1")

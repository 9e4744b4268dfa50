"""Routes of rank: the order of candidates for a user, and recommendations."""

from fastapi import FastAPI, Response

from notellm.serve.answers import brief_json, json_answer, reason_json
from notellm.serve.routes.reading import only_reads
from notellm.serve.schemas import rank as schemas
from notellm.serve.service import Service


def add_rank_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of rank to an application."""
    engine = service.engine

    @api.post("/v1/rank", response_model=schemas.RankAnswer, tags=["rank"])
    @only_reads
    async def rank(body: schemas.RankBody) -> Response:
        """Order candidates by how likely a user is to enjoy them.

        Candidates that are hidden or expired are not ranked but named in `left_out`, so a feed that chose its
        candidates a moment ago still gets an answer. A candidate that does not exist is an error.
        """
        ranking = await service.ranking.ask(
            lambda: engine.rank(body.user_id, body.candidates, history=body.history)
        )
        pairs = zip(ranking.note_ids, ranking.scores.tolist(), strict=True)
        ranked = [{"note_id": note_id, "score": score} for note_id, score in pairs]
        kept = set(ranking.note_ids)
        left_out = [note_id for note_id in body.candidates if note_id not in kept]
        return json_answer({"basis": ranking.basis, "ranked": ranked, "left_out": left_out})

    @api.post("/v1/recommend", response_model=schemas.RecommendAnswer, tags=["rank"])
    @only_reads
    async def recommend(body: schemas.RecommendBody) -> Response:
        """Recommend notes that a user has not opened, each with its reason, its source and its position.

        Hidden and expired notes are neither recommended nor named as a reason. A click that names the
        `request_id` tells which of the notes the user opened.
        """
        result = await service.ranking.ask(
            lambda: engine.recommend(
                body.user_id,
                history=body.history,
                k=body.k,
                exclude=body.exclude,
                per_note=body.per_note,
                rerank=body.rerank,
                where=body.filter.filter(),
                record=body.record,
            )
        )
        notes = engine.notes
        rows = zip(result.note_ids, result.scores.tolist(), result.reasons, result.sources, strict=True)
        recommended = [
            {
                **brief_json(note),
                "score": score,
                "position": position,
                "source": source,
                "reason": reason_json(notes, reason),
            }
            for position, (note_id, score, reason, source) in enumerate(rows, start=1)
            if (note := notes.get(note_id)) is not None  # it may have been removed since
        ]
        answer = {"request_id": result.request_id, "basis": result.basis, "recommended": recommended}
        return json_answer(answer)

"""The yardstick "plain": an upload service as most people write it first, and as tutorials teach it.

`UploadFile`, boto3's `upload_fileobj`, an ORM row, a publish, and no inspection of the bytes. Most
write `async def`, as in FastAPI's own page about `UploadFile`, around libraries that block: then one
upload holds up all others. That is the yardstick "plain". The same as `def`, which FastAPI runs in
a pool of 40 threads, is "plain-threads". Engine and clients are made on import and have default
settings: this file is a quotation, not an example.
"""

import os
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

import boto3
from fastapi import Depends, FastAPI, UploadFile
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

BUCKET = "bench"
TOPIC = os.environ.get("TOPIC_ARN", "arn:aws:sns:us-east-1:000000000000:images")

engine = create_engine(os.environ.get("DATABASE_URL", "postgresql+psycopg://"))
s3 = boto3.client("s3", endpoint_url=os.environ.get("S3_ENDPOINT"))
sns = boto3.client("sns", endpoint_url=os.environ.get("SNS_ENDPOINT"))


class Base(DeclarativeBase):
    """The tables."""


class Image(Base):
    """An image that was uploaded."""

    __tablename__ = "images"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    filename: Mapped[str | None]
    content_type: Mapped[str | None]
    size: Mapped[int | None]
    key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ImageOut(BaseModel):
    """An image in an answer and in an event."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    filename: str | None
    content_type: str | None
    size: int | None
    key: str
    created_at: datetime


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    """Make the tables."""
    Base.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


def get_session() -> Generator[Session]:
    """Give a request a session of its own."""
    with Session(engine) as session:
        yield session


@app.post("/v1/images", status_code=201)
async def upload(file: UploadFile, session: Annotated[Session, Depends(get_session)]) -> ImageOut:
    """Store one image."""
    return store(file, session)


@app.post("/v1/threads/images", status_code=201)
def upload_in_thread(file: UploadFile, session: Annotated[Session, Depends(get_session)]) -> ImageOut:
    """Store one image, in a thread."""
    return store(file, session)


def store(file: UploadFile, session: Session) -> ImageOut:
    """Keep the bytes, then the row, then tell."""
    key = f"images/{uuid.uuid4()}/{file.filename}"
    s3.upload_fileobj(file.file, BUCKET, key, ExtraArgs={"ContentType": file.content_type})
    image = Image(filename=file.filename, content_type=file.content_type, size=file.size, key=key)
    session.add(image)
    session.commit()
    session.refresh(image)
    out = ImageOut.model_validate(image)
    sns.publish(TopicArn=TOPIC, Message=out.model_dump_json())
    return out

// @uppy/aws-s3 5, which talks to a Companion unless it is told otherwise.
import AwsS3 from "@uppy/aws-s3";
import Uppy from "@uppy/core";
import { fileOf } from "../bytes.js";

window.upload = async (endpoint, files, multipart) => {
  const uppy = new Uppy().use(AwsS3, { endpoint, shouldUseMultipart: multipart });
  for (const each of files.map(fileOf)) uppy.addFile({ name: each.name, type: each.type, data: each });
  const { successful, failed } = await uppy.upload();
  return {
    successful: successful.map((file) => ({ name: file.name, url: file.uploadURL })),
    failed: failed.map((file) => ({ name: file.name, error: String(file.error) })),
  };
};

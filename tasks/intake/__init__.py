"""Intake: how videos and what is made of them come in, through files, URLs, forms and a transcoder's folder."""

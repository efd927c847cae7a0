"""OpenID Connect: the provider a service of this kind signs its users in with.

joserfc verifies what is signed: it is typed, kept up, and takes no algorithm that was not named to it. Authlib, by the
same author, makes the OAuth requests and checks the claims of ID tokens. Of Authlib only what does no I/O is used: its
httpx client follows whichever HTTP library it finds installed, reads answers of any size and keeps the last user's
token. So the requests themselves go over plain httpx, with the bounds of `http.py`.
"""

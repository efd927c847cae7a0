"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Search looks at paths and summaries too, not at the names of groups alone.
const search = () => ({
  fn: {
    opsFilter: (groups, phrase) => {
      const wanted = phrase.toLowerCase();
      const fits = (operation) => [operation.get("path"), operation.get("method"), operation.getIn(["operation", "summary"])]
        .some((text) => String(text).toLowerCase().includes(wanted));
      return groups
        .map((group) => group.update("operations", (operations) => operations.filter(fits)))
        .filter((group) => group.get("operations").size > 0);
    },
  },
});

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  filter: true,
  plugins: [search],
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false, // a credential stays in the page, and goes with it
  validatorUrl: null,
});

// The console: the login by a one-time code, the frame with the menu, the page of the address.
import { render } from "preact";
import { ApiError, get, post } from "./api";
import { ErrorNote } from "./parts/notes";
import { PAGES } from "./pages";
import { useReply } from "./reply";
import { link, usePlace } from "./route";
import "./style.css";
import type { Login } from "./types";

const WHO_MS = 30_000;

function App() {
  const place = usePlace();
  const who = useReply<Login>("who", {}, WHO_MS);
  const page = PAGES.find((each) => each.path === place.page) ?? PAGES[0]!;
  document.title = `${page.title} · eventsched`;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => skip(event)}>
        Skip to the page
      </a>
      <header>
        <nav aria-label="Pages">
          {PAGES.filter((each) => each.isInMenu).map((each) => (
            <a href={link(each.path)} aria-current={each === page ? "page" : undefined} key={each.path}>
              {each.title}
            </a>
          ))}
        </nav>
        {who.data && (
          <p class="who">
            {who.data.subject}, {who.data.role}
            {who.data.tenant !== "*" && ` of ${who.data.tenant}`}
            <button type="button" onClick={logout}>
              Log out
            </button>
          </p>
        )}
      </header>
      <main id="main" tabIndex={-1}>
        {who.error && <ErrorNote error={who.error} />}
        {who.data && who.error?.status !== 401 && <page.View key={`${place.page}/${place.id}`} place={place} role={who.data.role} tenant={who.data.tenant} />}
      </main>
    </>
  );
}

function skip(event: Event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

async function logout() {
  await post("logout");
  location.reload();
}

/** Exchange the code of a login link, `#code=CODE`, for a cookie. */
async function login(): Promise<ApiError | null> {
  const code = /^#code=([\w-]+)$/.exec(location.hash)?.[1];
  if (!code) return null;
  history.replaceState(null, "", location.pathname + link(""));
  try {
    await get<Login>("login", { code });
    return null;
  } catch (error) {
    return error as ApiError;
  }
}

const app = document.getElementById("app")!;
const loginError = await login();
if (loginError)
  render(
    <main>
      <h1>Login</h1>
      <ErrorNote error={loginError} />
    </main>,
    app,
  );
else render(<App />, app);
